// The dashboard works without this file. It only keeps an open page fresh, and filters while you type.
// It never sends anything but GETs of addresses that links and forms of the page also have.
(() => {
  "use strict";

  const EVERY = 15000;
  const lost = document.getElementById("lost");
  const announce = document.getElementById("announce");
  let tag = null;
  let asked = 0;

  function put(fresh) {
    for (const old of document.querySelectorAll("[data-live]")) {
      const found = fresh.querySelector(`[data-live="${old.dataset.live}"]`);
      if (!found || found.innerHTML === old.innerHTML) continue;
      const focus = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      const open = [...old.querySelectorAll("details[open]")].map((part) => part.id);
      old.replaceChildren(...document.importNode(found, true).childNodes);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (focus) [...old.querySelectorAll("a")].find((link) => link.getAttribute("href") === focus)?.focus();
    }
    document.title = fresh.title;
  }

  async function look(address, typed) {
    const turn = ++asked;
    try {
      const answer = await fetch(address, { cache: "no-cache", headers: { Accept: "text/html" } });
      if (turn !== asked) return;
      if (!answer.ok) throw new Error(String(answer.status));
      const seen = answer.headers.get("ETag");
      lost.hidden = true;
      if (seen === tag && !typed) return;
      const text = await answer.text();
      if (turn !== asked) return;
      put(new DOMParser().parseFromString(text, "text/html"));
      if (typed) announce.textContent = document.querySelector(".tabs [aria-current] .count")
        ? `${document.querySelector(".tabs [aria-current] .count").textContent} found` : "List changed";
      tag = seen;
    } catch (error) {
      // A filter that is not finished yet is refused: that is no lost connection.
      if (!typed) lost.hidden = false;
    }
  }

  function address(form) {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value) query.append(name, value);
    const text = query.toString();
    return form.getAttribute("action") + (text ? `?${text}` : "");
  }

  for (const form of document.querySelectorAll("form[data-filter]")) {
    let timer = 0;
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (!form.checkValidity()) return;
        history.replaceState(null, "", address(form));
        look(location.href, true);
      }, 200);
    });
  }

  setInterval(() => {
    if (document.visibilityState === "visible") look(location.href, false);
  }, EVERY);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") look(location.href, false);
  });
})();

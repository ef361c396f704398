"""`make mutants`: weaken each check of trust and of agents, one at a time, and see that a test fails.

A mutant is the source with one check gone or weaker: a guard that never strikes, a call of a check left out,
one side of an `and` or `or` gone, `<` for `<=`, a filter gone from a comprehension, True for what a predicate
finds, `any` for `all`, a set from which nothing is taken away. For each, the tests that reach its line (as
coverage saw them) run in a copy of the tree, until one fails. What survives is listed with its place; the
exit code is 1 when a mutant survives that bench/equivalents/ does not explain.

Rules kept: the work tree is never touched; a mutant whose tests do not end is counted apart. One process
imports everything once; for each mutant it forks, and the child puts the weakened code into the functions
that there are. What seems to survive and nobody explains is judged again by itself, from the first import
on. Names of modules narrow it down: `python -m bench.mutants capsule/trust/raw.py`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType
from typing import NoReturn

import pytest
from _pytest.runner import runtestprotocol
from coverage import CoverageData

REPOSITORY = Path(__file__).resolve().parents[1]
TRUST = [
    str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "capsule" / "trust").glob("[a-z]*.py"))
]
AGENT = [
    f"agent/capsule_agent/{name}.py"
    for name in ("verify", "signers_list", "approvals", "protocol/generations", "protocol/sshsig")
]
TESTS = (
    "tests/unit/trust",
    "tests/unit/agent/test_agent_verification.py",
    "tests/unit/agent/test_agent_contract.py",
    "tests/fuzz/test_objects_and_signatures.py",
    "tests/integration/test_differential.py",
)
ATTACKS = ("test_trust_*.py", "test_agent_*.py")
LEFT_OUT = (".git", ".venv", ".venv-bench", "*_cache", ".hypothesis", "__pycache__", ".coverage*")
SECONDS = 90.0
"""Longest time for the tests of one mutant."""
NEAR = 8
"""Lines around a mutant: tests that reach the rarest of them come first, for they tell most often."""

EXPLAINED = Path(__file__).parent / "equivalents"
"""Mutants that let nothing pass that should not: by module a file, by function what is changed, and why."""


Reached = Mapping[tuple[str, int], list[str]]
"""Which tests reach a line of a module."""

SHORTEST = 0.02
"""Seconds that any test costs at the least, beside what it does itself."""


@dataclass(frozen=True)
class Mutant:
    """One weakened check: its place, what was done, and the whole source with it."""

    module: str
    function: str
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} in {self.function}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: killed, survived, hung or (no test reaches it) unreached."""

    mutant: Mutant
    outcome: str
    tests: int


# ---- mutants ------------------------------------------------------------------------------------


class Mutation(ast.NodeTransformer):
    """Replaces the node that stands at `number` in the order of the walk, by `made`."""

    def __init__(self, target: ast.AST, made: ast.AST | None) -> None:
        self._target = target
        self._made = made

    def visit(self, node: ast.AST) -> ast.AST | None:
        if node is self._target:
            return self._made
        self.generic_visit(node)
        return node


_ORDER: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_LEAVING = (ast.Raise, ast.Return, ast.Continue, ast.Break)
TRUE, FALSE = ast.Constant(True), ast.Constant(False)


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse((REPOSITORY / module).read_text())
    seen: set[str] = set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        predicate = isinstance(function.returns, ast.Name) and function.returns.id == "bool"
        for node in ast.walk(function):
            for what, made in _weaker(node, predicate):
                source = _with(tree, node, made)
                if source not in seen:
                    seen.add(source)
                    yield Mutant(module, function.name, _line(node), what, source)


def _line(node: ast.AST) -> int:
    """Where the code of a node begins, as coverage counts lines: of an `if`, where its condition stands."""
    begins = node.test if isinstance(node, ast.If) else node
    return begins.lineno  # type: ignore[attr-defined]  # every node that is mutated has a line


def _with(tree: ast.Module, node: ast.AST, made: ast.AST) -> str:
    memo: dict[int, object] = {id(node): node}
    twin = copy.deepcopy(tree, memo)
    return ast.unparse(ast.fix_missing_locations(Mutation(node, made).visit(twin)))


def _weaker(node: ast.AST, predicate: bool) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.If):
        if isinstance(node.body[-1], _LEAVING):
            yield f"never: if {ast.unparse(node.test)}", ast.If(FALSE, node.body, node.orelse)
            if not isinstance(node.body[-1], ast.Raise):
                yield f"always: if {ast.unparse(node.test)}", ast.If(TRUE, node.body, node.orelse)
    elif isinstance(node, ast.BoolOp):
        for at, left_out in enumerate(node.values):
            kept = [value for other, value in enumerate(node.values) if other != at]
            yield (
                f"without: {ast.unparse(left_out)}",
                kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept),
            )
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _ORDER:
        other = _ORDER[type(node.ops[0])]()
        yield (
            f"other bound: {ast.unparse(node)}",
            ast.Compare(node.left, [other, *node.ops[1:]], node.comparators),
        )
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"left out: {ast.unparse(node)}", ast.Pass()
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        for at, loop in enumerate(node.generators):
            for left_out in loop.ifs:
                twin = copy.copy(node)
                kept_ifs = [each for each in loop.ifs if each is not left_out]
                free = ast.comprehension(loop.target, loop.iter, kept_ifs, loop.is_async)
                twin.generators = [*node.generators[:at], free, *node.generators[at + 1 :]]
                yield f"unfiltered: {ast.unparse(left_out)}", twin
    elif isinstance(node, ast.Return) and predicate and not isinstance(node.value, ast.Constant):
        yield f"True for: {ast.unparse(node)}", ast.Return(TRUE)
        yield f"False for: {ast.unparse(node)}", ast.Return(FALSE)
    elif isinstance(node, ast.Name) and node.id in ("any", "all"):
        yield f"not {node.id}", ast.Name("all" if node.id == "any" else "any", ast.Load())
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.BitAnd):
        yield f"only the left of: {ast.unparse(node)}", node.left
    elif isinstance(node, ast.IfExp):
        yield f"always: {ast.unparse(node.body)}", node.body
        yield f"never: {ast.unparse(node.body)}", node.orelse


# ---- tests --------------------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """A copy of the tree, without what tools left behind."""
    shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    return folder


def pytest_in(folder: Path, *words: str, seconds: float) -> int | None:
    """The exit code of pytest in a copy of the tree; None when it did not end in time."""
    path = f"{folder}{os.pathsep}{folder / 'agent'}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    fixed = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    process = subprocess.Popen(
        [*fixed, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


@dataclass(frozen=True)
class Tests:
    """What tests reach, and the seconds that each takes."""

    reached: Reached
    seconds: Mapping[str, float]

    def telling(self, mutant: Mutant) -> list[str]:
        """The tests that reach the line of a mutant: first quick ones, and those that few others go with."""
        rarest: dict[str, int] = {}
        for line in range(mutant.line - NEAR, mutant.line + NEAR + 1):
            others = self.reached.get((mutant.module, line), [])
            for name in others:
                rarest[name] = min(len(others), rarest.get(name, len(others)))
        names = self.reached.get((mutant.module, mutant.line), [])
        return sorted(names, key=lambda name: (rarest[name] * self._cost(name), name))

    def _cost(self, name: str) -> float:
        return max(SHORTEST, self.seconds.get(name, 0.0))


def reaching(folder: Path) -> Tests:
    """Which tests reach a line, by module and line; only tests that pass without any mutant."""
    attacks = [
        str(path.relative_to(folder))
        for word in ATTACKS
        for path in sorted((folder / "tests/attacks").glob(word))
    ]
    ended = folder / "ended.txt"
    words = [
        "--cov=capsule.trust",
        "--cov=capsule_agent",
        "--cov-context=test",
        "--cov-report=",
        "-m",
        "not soak",
        "-n",
        "2",
    ]
    told = folder / "conftest.py"
    told.write_text(_TELL_ENDED.format(path=str(ended)))
    pytest_in(folder, *words, *TESTS, *attacks, seconds=1800)
    told.unlink()
    lines = [line.split(" ", 2) for line in ended.read_text().splitlines()] if ended.exists() else []
    bad = {name for outcome, _, name in lines if outcome == "failed"}
    if bad:
        print(f"{len(bad)} tests fail without any mutant and are left out:", *sorted(bad), flush=True)
    data = CoverageData(str(folder / ".coverage"))
    data.read()
    found: dict[tuple[str, int], list[str]] = {}
    for path in data.measured_files():
        for line, contexts in data.contexts_by_lineno(path).items():
            names = {context.partition("|")[0] for context in contexts} - {""} - bad
            found[str(Path(path).relative_to(folder)), line] = sorted(names)
    return Tests(found, {name: float(seconds) for _, seconds, name in lines})


_TELL_ENDED = """
def pytest_runtest_logreport(report):
    if report.failed or report.when == "call":
        with open({path!r}, "a") as file:
            file.write(f"{{report.outcome}} {{report.duration}} {{report.nodeid}}\\n")
"""


class Forks:
    """A plugin of pytest that runs, instead of all tests once, those of each mutant in a child of its own."""

    def __init__(self, every: Sequence[Mutant], tests: Tests, at_once: int) -> None:
        self._waiting = list(every)
        self._tests = tests
        self._at_once = at_once
        self._running: dict[int, tuple[Mutant, int, float]] = {}
        self.verdicts: list[Verdict] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        gc.freeze()  # else every child's first collection copies all there is
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._at_once:
                self._start(self._waiting.pop(0), items)
            self._reap()
        return True

    def _start(self, mutant: Mutant, items: Mapping[str, pytest.Item]) -> None:
        chosen = [items[name] for name in self._tests.telling(mutant) if name in items]
        if not chosen:
            self.verdicts.append(Verdict(mutant, "unreached", 0))
            return
        child = os.fork()
        if child == 0:
            _run_in_child(mutant, chosen)
        self._running[child] = (mutant, len(chosen), time.monotonic() + SECONDS)

    def _reap(self) -> None:
        """Note which children have ended, and end those that do not; waits a little where none has."""
        for child, (mutant, count, deadline) in list(self._running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            late = not ended and time.monotonic() > deadline
            if not ended and not late:
                continue
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            if late:
                os.waitpid(child, 0)
            del self._running[child]
            outcome = "hung" if late else "survived" if status == 0 else "killed"
            self.verdicts.append(Verdict(mutant, outcome, count))
            if outcome != "killed":
                print(f"seems {outcome}: {mutant}", flush=True)
            if len(self.verdicts) % 100 == 0:
                print(f"{len(self.verdicts)} judged", flush=True)
        time.sleep(0.01)


def _run_in_child(mutant: Mutant, items: Sequence[pytest.Item]) -> NoReturn:
    """Run the tests with the weakened code, and end the process: 0 when all pass."""
    code = 1
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(silence, stream)
        put_in_place(mutant)
        after = [*items[1:], None]
        passed = (
            not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))
            for item, following in zip(items, after, strict=True)
        )
        code = 0 if all(passed) else 1
    finally:
        os._exit(code)


def put_in_place(mutant: Mutant) -> None:
    """Give the functions and methods of a module that is imported already the code of the mutant."""
    name = mutant.module.removeprefix("agent/").removesuffix(".py").replace("/", ".")
    codes = dict(_codes(compile(mutant.source, mutant.module, "exec")))
    module = sys.modules[name]
    for holder in (module, *(each for each in vars(module).values() if isinstance(each, type))):
        for found in list(vars(holder).values()):
            function = _function(found)
            if function is not None and function.__module__ == name and function.__qualname__ in codes:
                function.__code__ = codes[function.__qualname__]
    for loaded in [each for key, each in sys.modules.items() if key.startswith("capsule")]:
        for found in list(vars(loaded).values()):
            if callable(clear := getattr(found, "cache_clear", None)):
                clear()


def _codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner.co_qualname, inner
            if "<" not in inner.co_name:
                yield from _codes(inner)


def _function(found: object) -> FunctionType | None:
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, cached_property):
        found = found.func
    if isinstance(found, classmethod | staticmethod):
        found = found.__func__
    found = inspect.unwrap(found) if callable(found) else found
    return found if isinstance(found, FunctionType) else None


def judged_alone(verdict: Verdict, tests: Sequence[str], folder: Path) -> Verdict:
    """Judge a survivor again with a pytest of its own in `folder`, which is as before afterwards."""
    mutant = verdict.mutant
    place = folder / mutant.module
    honest = place.read_text()
    listed = folder / "chosen.txt"
    listed.write_text("\n".join(tests))
    place.write_text(mutant.source)
    try:
        code = pytest_in(folder, "-x", "-p", "no:cov", "-p", "no:xdist", f"@{listed}", seconds=2 * SECONDS)
    finally:
        place.write_text(honest)
    return replace(verdict, outcome="hung" if code is None else "survived" if code == 0 else "killed")


def main() -> int:
    """Judge the mutants of the modules that are named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", default=[*AGENT, *TRUST])
    parser.add_argument("--at-once", type=int, default=2)
    chosen = parser.parse_args()
    every = [mutant for module in chosen.modules for mutant in mutants(module)]
    with TemporaryDirectory(prefix="mutants-") as place:
        folder = copied(Path(place) / "tree")
        began = time.monotonic()
        tests = reaching(folder)
        print(f"{len(every)} mutants; which tests reach what: {time.monotonic() - began:.0f} s", flush=True)
        return _told(judge(every, tests, folder, chosen.at_once))


def judge(every: Sequence[Mutant], tests: Tests, folder: Path, at_once: int) -> list[Verdict]:
    """The verdict on each mutant; the copy of the tree in `folder` is imported by this process."""
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder.parent)
    sys.path[:0] = [str(folder), str(folder / "agent")]
    os.chdir(folder)
    forks = Forks(every, tests, at_once)
    quiet = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
    pytest.main(
        [
            *quiet,
            "-m",
            "not soak",
            *sorted({name.partition("::")[0] for names in tests.reached.values() for name in names}),
        ],
        [forks],
    )
    verdicts = []
    for verdict in forks.verdicts:
        mutant = verdict.mutant
        sure = verdict
        if verdict.outcome == "survived" and not explanation(mutant):
            sure = judged_alone(verdict, tests.telling(mutant), folder)
        if sure.outcome != "killed":
            print(f"{sure.outcome} ({sure.tests} tests): {mutant}", flush=True)
        verdicts.append(sure)
    return verdicts


def _told(verdicts: Sequence[Verdict]) -> int:
    for module in dict.fromkeys(verdict.mutant.module for verdict in verdicts):
        counts = Counter(verdict.outcome for verdict in verdicts if verdict.mutant.module == module)
        print(f"{module}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    left = [each.mutant for each in verdicts if each.outcome in ("survived", "unreached")]
    unexplained = [each for each in left if not explanation(each)]
    for mutant in unexplained:
        print(f"not explained: {mutant}")
    print(f"{len(verdicts)} mutants, {len(left)} left, {len(unexplained)} of them not explained")
    return bool(unexplained)


def explanation(mutant: Mutant) -> str:
    """Why a mutant that survives does no harm; empty where nobody says so."""
    file = EXPLAINED / f"{Path(mutant.module).stem}.toml"
    functions = tomllib.loads(file.read_text()) if file.exists() else {}
    return str(functions.get(mutant.function, {}).get(mutant.what, ""))


if __name__ == "__main__":
    sys.exit(main())

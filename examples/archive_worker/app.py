"""A worker without a web framework: files that appear in a folder move to an AWS S3 bucket.

Run: `python -m examples.archive_worker.app --port 8083 …` (`--help` lists the options). The port is the
agent's alone; nothing else of the worker listens. With `--socket PATH` not even that: the agent listens on a
Unix socket, and `capsule-agent stdio` leads there over SSH. The folder is `inbox`, beside the journal.
Everything that Capsule needs stands in `make_agent`; the rest is the adapter as it was without it.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from capsule_agent import Agent, Health

from ..iam_keys import AwsClients, IamKeys
from ..settings import Options, Settings, read_options

NAME = "archive-worker"
VERSION = "0.9.0"
BUCKET = "archive"
StorageClass = Literal["STANDARD", "STANDARD_IA", "GLACIER"]
PAUSE_SECONDS = 1.0
log = logging.getLogger(NAME)


def check(s3: Any) -> Any:
    """A harmless call that fails unless S3 accepts the key."""
    return s3.list_objects_v2(Bucket=BUCKET, MaxKeys=1)


def make_agent(options: Options, settings: Settings, s3: AwsClients) -> Agent:
    """What Capsule may see of this service, and what it may do."""
    agent = Agent(NAME, version=VERSION, journal=options.journal, owners=options.owners, key=options.key)
    agent.config("upstream", lambda: options.upstream)
    agent.config("region", lambda: options.region)
    agent.config(
        "storageClass",
        lambda: settings.get("storageClass"),
        set=lambda new: settings.put("storageClass", new),
        kind=StorageClass,
    )

    @agent.health
    def health() -> Health:
        try:
            check(s3.client())
        except (BotoCoreError, ClientError, OSError) as error:
            return Health("DOWN", f"S3 does not answer us: {type(error).__name__}")
        return Health("UP", f"bucket {BUCKET}")

    admin = AwsClients("iam", options.key_admin, upstream=options.upstream, region=options.region)
    keys = IamKeys(NAME, admin=admin, working=s3, probe=check)
    agent.config("apiKey", keys.secret, sensitive=True)
    agent.rotation(keys.rotation(), approvals=1)
    return agent


def waiting(inbox: Path) -> list[Path]:
    """The files to archive; those with a leading dot are still being written."""
    return sorted(path for path in inbox.iterdir() if path.is_file() and not path.name.startswith("."))


def archive(files: list[Path], s3: Any, storage_class: str) -> None:
    """Move `files` to the bucket. A file is deleted only once S3 has it."""
    for path in files:
        s3.put_object(Bucket=BUCKET, Key=path.name, Body=path.read_bytes(), StorageClass=storage_class)
        path.unlink()


def work(options: Options, stopping: threading.Event) -> None:
    """Serve the agent and archive until `stopping` is set."""
    settings = Settings(options.folder / "settings.json", {"storageClass": "STANDARD"})
    s3 = AwsClients("s3", options.credentials, upstream=options.upstream, region=options.region)
    inbox = options.folder / "inbox"
    inbox.mkdir(exist_ok=True)
    agent = make_agent(options, settings, s3)
    held_back = 0
    listening = agent.serve_unix(options.socket) if options.socket else agent.serve("127.0.0.1", options.port)
    with listening:
        while not stopping.wait(PAUSE_SECONDS):
            files = waiting(inbox)
            # A disabled worker takes no work. Its agent still answers, so it can be rotated and enabled.
            if not agent.enabled:
                if len(files) != held_back:
                    log.warning("disabled: %d files wait", len(files))
                held_back = len(files)
                continue
            held_back = 0
            try:
                archive(files, s3.client(), settings.get("storageClass"))
            except (BotoCoreError, ClientError, OSError) as error:
                log.warning("not archived, tried again: %s", type(error).__name__)


if __name__ == "__main__":
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    work(read_options(str(__doc__), or_socket=True), stop)

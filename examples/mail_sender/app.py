"""A mail service on Flask: `POST /messages` becomes a call of AWS SES, and Capsule looks after the key.

Run: `python -m examples.mail_sender.app --port 8081 …` (`--help` lists the options).
Everything that Capsule needs stands in `make_agent`; the rest is the adapter as it was without it.
"""

from __future__ import annotations

from typing import Any

import waitress
from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, request
from flask.typing import ResponseReturnValue

from capsule_agent import Agent, Health

from ..iam_keys import AwsClients, IamKeys
from ..settings import Options, Settings, read_options

NAME = "mail-sender"
VERSION = "1.4.2"
SES_API = "2010-12-01"


def check(ses: Any) -> Any:
    """A harmless call that fails unless SES accepts the key."""
    return ses.get_send_quota()


def make_agent(options: Options, settings: Settings, ses: AwsClients) -> Agent:
    """What Capsule may see of this service, and what it may do."""
    agent = Agent(NAME, version=VERSION, journal=options.journal, owners=options.owners, key=options.key)

    # Shown in reports, and compared with the pins of services/mail-sender.yaml.
    agent.config("upstream", lambda: options.upstream)
    agent.config("region", lambda: options.region)
    agent.config("apiVersion", lambda: SES_API)
    # The one value that may be changed from outside, because there is a `set` for it.
    agent.config("sender", lambda: settings.get("sender"), set=lambda new: settings.put("sender", new))

    @agent.health
    def health() -> Health:
        try:
            quota = check(ses.client())
        except (BotoCoreError, ClientError, OSError) as error:
            return Health("DOWN", f"SES does not answer us: {type(error).__name__}")
        left = quota["Max24HourSend"] - quota["SentLast24Hours"]
        return Health("UP" if left > 0 else "DEGRADED", f"{left:.0f} messages left today")

    admin = AwsClients("iam", options.key_admin, upstream=options.upstream, region=options.region)
    keys = IamKeys(NAME, admin=admin, working=ses, probe=check)
    # Never reported: only a keyed fingerprint of it, so that a change without an operation is noticed.
    agent.config("apiKey", keys.secret, sensitive=True)
    # One approval by somebody else than the requester; the agent checks its signature itself.
    agent.rotation(keys.rotation(), approvals=1)
    return agent


def create_app(options: Options) -> Any:
    """The WSGI application: Flask's, with the agent in front."""
    settings = Settings(options.folder / "settings.json", {"sender": "no-reply@example.com"})
    ses = AwsClients("ses", options.credentials, upstream=options.upstream, region=options.region)
    app = Flask(__name__)

    @app.post("/messages")
    def send() -> ResponseReturnValue:
        message = request.get_json()
        sent = ses.client().send_email(
            Source=settings.get("sender"),
            Destination={"ToAddresses": [message["to"]]},
            Message={"Subject": {"Data": message["subject"]}, "Body": {"Text": {"Data": message["text"]}}},
        )
        return {"id": sent["MessageId"]}, 202

    agent = make_agent(options, settings, ses)
    # The agent answers below /capsule; while the service is disabled everything else is answered 503.
    return agent.wsgi(app.wsgi_app)


if __name__ == "__main__":
    chosen = read_options(str(__doc__))
    waitress.serve(create_app(chosen), host="127.0.0.1", port=chosen.port, threads=8)

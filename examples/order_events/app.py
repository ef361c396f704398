"""An event service on FastAPI: `POST /orders/{id}/events` becomes a message in an AWS SQS queue.

Run: `python -m examples.order_events.app --port 8082 …` (`--help` lists the options).
Everything that Capsule needs stands in `make_agent`; the rest is the adapter as it was without it.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import uvicorn
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import FastAPI
from pydantic import BaseModel

from capsule_agent import Agent, Health

from ..iam_keys import AwsClients, IamKeys
from ..settings import Options, Settings, read_options

NAME = "order-events"
VERSION = "2.0.1"
QUEUE = "order-events"
Model = Literal["order-event-1", "order-event-2"]


class Event(BaseModel):
    """What happened to an order."""

    type: str
    detail: dict[str, str] = {}


def check(sqs: Any) -> Any:
    """A harmless call that fails unless SQS accepts the key; the queue's address."""
    return sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]


def make_agent(options: Options, settings: Settings, sqs: AwsClients) -> Agent:
    """What Capsule may see of this service, and what it may do."""
    agent = Agent(NAME, version=VERSION, journal=options.journal, owners=options.owners, key=options.key)
    agent.config("upstream", lambda: options.upstream)
    agent.config("region", lambda: options.region)
    # The data model of the events that consumers are promised: a pin that Capsule may also correct.
    agent.config(
        "model", lambda: settings.get("model"), set=lambda new: settings.put("model", new), kind=Model
    )

    @agent.health
    def health() -> Health:
        try:
            check(sqs.client())
        except (BotoCoreError, ClientError, OSError) as error:
            return Health("DOWN", f"SQS does not answer us: {type(error).__name__}")
        return Health("UP", f"queue {QUEUE}")

    admin = AwsClients("iam", options.key_admin, upstream=options.upstream, region=options.region)
    keys = IamKeys(NAME, admin=admin, working=sqs, probe=check)
    agent.config("apiKey", keys.secret, sensitive=True)
    agent.rotation(keys.rotation(), approvals=1)
    return agent


def create_app(options: Options) -> Any:
    """The ASGI application: FastAPI's, with the agent in front."""
    settings = Settings(options.folder / "settings.json", {"model": "order-event-2"})
    sqs = AwsClients("sqs", options.credentials, upstream=options.upstream, region=options.region)
    app = FastAPI(title=NAME, version=VERSION)

    # A plain function: boto3 blocks, so FastAPI runs it in a thread and the loop stays free.
    @app.post("/orders/{order}/events", status_code=202)
    def publish(order: str, event: Event) -> dict[str, str]:
        client = sqs.client()
        body = {"model": settings.get("model"), "order": order, **event.model_dump()}
        sent = client.send_message(QueueUrl=check(client), MessageBody=json.dumps(body))
        return {"id": sent["MessageId"]}

    # The agent answers below /capsule; while the service is disabled everything else is answered 503.
    agent = make_agent(options, settings, sqs)
    return agent.asgi(app)


if __name__ == "__main__":
    chosen = read_options(str(__doc__))
    uvicorn.run(create_app(chosen), host="127.0.0.1", port=chosen.port, log_level="warning")

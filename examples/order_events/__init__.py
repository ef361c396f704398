"""Publishes what happens to orders through AWS SQS: a FastAPI application with Capsule's agent inside."""

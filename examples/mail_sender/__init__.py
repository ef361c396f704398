"""Sends mail through AWS SES for the other services: a Flask application with Capsule's agent inside."""

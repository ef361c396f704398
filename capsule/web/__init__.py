"""The dashboard: renders the state repository, changes nothing, listens to GET and HEAD alone."""

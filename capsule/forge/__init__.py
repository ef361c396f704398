"""What forges know: pull requests, their reviews, and opening one, by the REST APIs of forges."""

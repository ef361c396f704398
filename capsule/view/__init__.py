"""The read model of one revision, for the command line and the dashboard. Pure: see view.model."""

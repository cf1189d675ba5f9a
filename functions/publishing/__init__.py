"""The result of a task: its changes as a commit on a branch, and a pull request (docs/how-to/open-pull-requests.md)."""

"""Clients of GitHub, GitLab and Gitea (also Forgejo) with one interface; see docs/how-to/open-pull-requests.md."""

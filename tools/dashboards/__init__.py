"""The dashboards as code: what they show, their JSON for Grafana, and their pictures."""

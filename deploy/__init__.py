"""What an installation needs beside the code: units, image, manifests, alerts, dashboards, runbooks."""

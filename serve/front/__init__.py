"""The gateway's front: connections, who may speak, bodies, and answers that are given again."""

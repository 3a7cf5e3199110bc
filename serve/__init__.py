"""The student in service: slots and hot swap, batching, escalation, the teacher client, the HTTP gateway."""

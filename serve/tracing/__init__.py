"""What the gateway's spans say: of a request, of the student's forward pass, and of a call of the teacher."""

"""What an installation needs beside the code: it says what the processes do, and real tools can read it."""

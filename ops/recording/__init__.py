"""A teacher's calls as a log: `understudy proxy-log`."""

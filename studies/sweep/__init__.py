"""One sweep: its runs planned, rehearsed, trained and evaluated."""

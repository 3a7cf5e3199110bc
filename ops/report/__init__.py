"""The report that somebody reads each week: money, quality, what was learned, what stayed hard, what comes."""

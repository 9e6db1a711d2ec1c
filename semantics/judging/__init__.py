"""What checks are made of: candidates under watch, comparisons, bets, reports."""

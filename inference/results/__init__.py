"""Results: fits, their summaries and predictions."""

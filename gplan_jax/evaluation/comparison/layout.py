"""The names in a results directory of `gplan baseline`, for those who write it and who read it."""

COMPARISON, PREDICTIONS = "comparison.json", "predictions.jsonl"
CURVES, SUMMARY = "curves.json", "summary.json"
TABLE, MARKDOWN = "table.txt", "table.md"
ARMS, TRIALS_FILE = "arms", "trials.json"

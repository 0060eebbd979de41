"""What plans are worth: offline scores, sensitivity, significance, comparisons, judges, reports."""

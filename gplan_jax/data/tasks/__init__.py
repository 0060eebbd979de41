"""What is trained on, decoded and scored: the interface of a task, and the tasks there are."""

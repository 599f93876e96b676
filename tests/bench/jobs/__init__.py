"""What client processes do; `worker.py` says what a job is."""

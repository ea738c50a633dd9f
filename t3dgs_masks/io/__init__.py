"""Files in, files out: frames, prompts and results. The only place that knows file names."""

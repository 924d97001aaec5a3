"""What restoration and detection of inputs do for a model, measured on the user's own pictures."""

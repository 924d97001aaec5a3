"""The pipeline: the one room that sees every stage of the data's way, and holds no algorithm."""

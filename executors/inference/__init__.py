"""Answers by transformers: sampling, structured output, batches."""

"""Answers by vLLM or transformers: the choice, sampling, structured output, batches."""

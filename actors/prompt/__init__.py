"""From a prompt to token ids: the text around it as data, and a checkpoint's tokenizer."""

"""Files of prompts: what is listed, how it is converted, what footers say, and how columns are carried."""

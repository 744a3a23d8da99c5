"""Which torch functions read sizes and which take them: the size half of tracing."""

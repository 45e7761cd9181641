"""Parts of DiGIT: encoder, pyramid of memories, decoder of queries, assignment and losses."""

"""Calls the HTTP API of a celora server from any machine; needs no record, no broker and no torch."""

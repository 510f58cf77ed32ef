"""Launching on Ray: the session, the group of training workers, maps over items, and who is still alive."""

"""Checks: each returns judged statements (:class:`lab.model.Check`) with what was seen. Most are pure functions."""

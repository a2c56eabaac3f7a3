"""Uploads: received, limited, parsed in a process of their own."""

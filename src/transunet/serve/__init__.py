"""`transunet serve`: an API and a page that segment what is dropped on them, on this machine.

The API's process receives files, keeps jobs and answers; it computes nothing itself. Untrusted
files are opened in a process of their own (`desk`), and the models live in another (`worker`), so
that either may be killed without a job or a result being lost or mixed up.
"""

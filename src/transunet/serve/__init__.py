"""`transunet serve`: an API and a page that segment what is dropped on them, on this machine.

The server's process receives files, keeps jobs and answers; it computes nothing itself. Untrusted
files are opened in processes of their own (`uploads.sandbox`), and the models live in another
(`jobs.worker`), so that any of them may be killed without a job or a result being lost.
"""

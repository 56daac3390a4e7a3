"""`kiloword serve`: one warm model behind HTTP, for the programs and the page on this machine.

`server` runs it, `app` has the routes, `batching` brings concurrent requests together. Nothing outside this
folder imports it but the command, because it needs the packages of the extra [serve].
"""

"""``python -m mad_ip``: the command line where its script is not on the path."""

from mad_ip.cli import main

main()

"""`python -m minoritybench`"""

from minoritybench.cli import main

main()

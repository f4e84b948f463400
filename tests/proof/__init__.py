"""The proof: clients move money while processes and servers fail; then a checker decides.

`history` is what the clients saw, `journal` what the database holds, `checker` the judge. `faults`
hurt the `cluster`, `clients` load it, `campaign` runs the phases. `python -m tests.proof --help`.
"""

"""Imported by the server of the workers (`workers.py`): loads lingua's models once, instead of in every worker."""

from luthier.curate.language import language_of

# In no language that small words tell, so that lingua is asked; it reads its models when it is asked first.
language_of(
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod tempor incididunt labore dolore magna aliqua "
    "enim minim veniam quis nostrud exercitation"
)

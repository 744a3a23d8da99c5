"""A slim model as a Python file that needs torch alone, and its weights.

``exporting`` is the way through: ``modules`` lists what is to be written, ``collecting`` copies the author's methods,
``initializers`` writes what each module is built of, ``unify`` makes one constructor of many modules of a class,
``layout`` puts the file together and ``proof`` runs it beside the slim model.
"""

"""A page for trying the models in a browser: ``crt.demo.work`` computes, ``crt.demo.page`` shows (extra ``demo``)."""

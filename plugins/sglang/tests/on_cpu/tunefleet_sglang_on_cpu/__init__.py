"""SGLang on a processor, with stand-ins for its kernels. FOR TESTS: nobody is to serve with it."""

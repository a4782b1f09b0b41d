"""A DynamoDB of its own for one test process: moto's server on a free port, whose number is the first line it prints.

Two things that moto's own command does not do: requests are carried out one after the other, because the real DynamoDB
checks a condition and writes in one step and moto in two; and the server ends when its standard input does, so it cannot
outlive the test that started it, however that ends.
"""

import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

one_at_a_time = threading.Lock()
moto = DomainDispatcherApplication(create_backend_app)


def application(environ, start_response):
    with one_at_a_time:
        return moto(environ, start_response)


class Quiet(MotoRequestHandler):
    def log(self, *_):
        pass


def end_with_the_test():
    sys.stdin.buffer.read()
    os._exit(0)


server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
threading.Thread(target=end_with_the_test, daemon=True).start()
print(server.port, flush=True)
server.serve_forever()

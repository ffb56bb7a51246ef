"""HTTPS servers that tell the name they were asked for: named.py CERTIFICATE KEY.

What it says on stdout: "usual N", "strict13 N" and "strict12 N", the ports of one that knows every name but those that begin with
"wrong", and of two that want a client's certificate, by TLS 1.3 and 1.2.
"""
import itertools, socket, ssl, sys, threading

def called(connection, name, _):
    connection.called = name
    if name and name.startswith('wrong'):
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

def context(version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    context.sni_callback = called
    if version:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(sys.argv[1])
        context.minimum_version = context.maximum_version = version
    return context

def serve(context, plain, number):
    try:
        with context.wrap_socket(plain, server_side=True) as connection:
            requests = connection.makefile('rb')
            while requests.readline():
                host = None
                while (field := requests.readline().strip()):
                    name, value = field.decode().split(': ', 1)
                    host = value if name.lower() == 'host' else host
                body = f'{connection.called} {host} {number}'.encode()
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body))
    except (ssl.SSLError, OSError):
        plain.close()

def accept(listener, context):
    for number in itertools.count():
        connection = listener.accept()[0]
        threading.Thread(target=serve, args=(context, connection, number), daemon=True).start()

all = [('usual', context()), ('strict13', context(ssl.TLSVersion.TLSv1_3)), ('strict12', context(ssl.TLSVersion.TLSv1_2))]
threads = []
for what, context in all:
    listener = socket.create_server(('127.0.0.1', 0))
    print(what, listener.getsockname()[1], flush=True)
    threads.append(threading.Thread(target=accept, args=(listener, context)))
for thread in threads:
    thread.start()

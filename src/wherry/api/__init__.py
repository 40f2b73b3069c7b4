"""The Docker Engine API over HTTP: a request is parsed, checked, becomes one call of the engine, and is answered.

Read ``routes`` first (the whole API as one table), then ``ports`` (what the engine offers). ``wire`` is HTTP/1.1 as pure functions
over bytes, ``connection`` one client, ``server`` the sockets, ``stream`` what is neither one JSON body nor empty, ``failures`` the only
place with status numbers of errors. Only ``daemon`` imports this room.
"""

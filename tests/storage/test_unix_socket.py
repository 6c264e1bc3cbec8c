"""Unix sockets in folders of any length, for this user alone."""

import socket
import stat

from celora.storage.unix_socket import is_of_this_user, listen, short_path


def test_a_socket_in_a_folder_with_a_long_name_takes_connections_and_is_for_this_user_alone(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = folder / "host.sock"
    with listen(path) as listener, socket.socket(socket.AF_UNIX) as client:
        assert [one.name for one in folder.iterdir()] == ["host.sock"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with short_path(path) as place:
            client.connect(place)
        connection, _ = listener.accept()
        with connection:
            assert is_of_this_user(connection)


def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path):
    path = tmp_path / "host.sock"
    listen(path).close()
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))

"""What `make lab` tells the Jupyter server. Knows nothing of ours."""

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class PromptConnection(ZMQChannelsWebsocketConnection):
    """The server's connection from a kernel to the browser, without Nagle's algorithm.

    A slider's move is answered by several small messages. The server would hold back all but the
    first until the browser has confirmed it, which takes browsers 40 ms: most of a drag's time.
    `--ServerApp.kernel_websocket_connection_class=llmviz.lab.PromptConnection`
    """

    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()

import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Java's HttpClient, which offers an h2c upgrade on every GET, and HttpURLConnection: each body it got, on a line. */
class Client {
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        HttpClient client = HttpClient.newHttpClient();
        show(client.send(HttpRequest.newBuilder(URI.create(url + "/java?get")).build(), BodyHandlers.ofString()).body());
        HttpRequest post = HttpRequest.newBuilder(URI.create(url + "/java?post"))
            .POST(BodyPublishers.ofString("from HttpClient")).build();
        show(client.send(post, BodyHandlers.ofString()).body());

        for (int length : new int[] {0, -1}) {
            HttpURLConnection connection = (HttpURLConnection) URI.create(url + "/java?old").toURL().openConnection();
            connection.setDoOutput(true);
            if (length < 0) {
                connection.setChunkedStreamingMode(4);
            }
            try (OutputStream out = connection.getOutputStream()) {
                out.write("from HttpURLConnection".getBytes());
            }
            show(new String(connection.getInputStream().readAllBytes()));
        }
    }

    static void show(String body) {
        System.out.println(body.replace("\n", " "));
    }
}
